"""The Hugging Face Hub: the push, the model card, and what is kept private."""
