"""What comes after a search: model folders, production training, masks for pictures, evaluation."""
