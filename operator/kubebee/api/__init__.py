"""The custom resources: pydantic models, the only definition of them."""
