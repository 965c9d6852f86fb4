"""kubebee's images, built from the Dockerfile on a machine that has no container engine and no registry."""
