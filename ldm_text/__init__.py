"""Latent text diffusion: data, pipeline, command line, evaluation and baselines."""
