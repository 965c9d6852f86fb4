"""The custom resources: pydantic models are the only definition of them, all else is made from these."""
