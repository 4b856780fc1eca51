"""Train, resume, sample and evaluate image diffusion models in JAX."""
