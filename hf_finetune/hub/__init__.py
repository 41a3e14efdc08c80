"""The Hugging Face Hub: pushing a result, its model card, and the removal of private texts."""
