"""A version from its second judgement on: receipt, signature, number, store, stages, champion, and MLflow as their mirror."""
