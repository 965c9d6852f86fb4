"""The one part that pyproject.toml cannot describe: the C extension, built against the stable ABI."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kubebee.lb._maglev",
            ["operator/kubebee/lb/_maglev.c"],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
