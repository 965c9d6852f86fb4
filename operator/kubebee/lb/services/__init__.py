"""Services and EndpointSlices of Kubernetes to frontends: what kube-proxy decides, as a pure model."""
