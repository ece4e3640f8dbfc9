"""Model folders, the Hugging Face Hub, and published checkpoints."""
