"""The data room: where pictures come from, and how they become batches."""
