"""What a trained model reads: probabilities of images, pictures of characters, a canvas."""
