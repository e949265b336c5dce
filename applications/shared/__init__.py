"""What several applications need: run folders, checkpoints, the training loop, pictures, figures, figures of merit."""
