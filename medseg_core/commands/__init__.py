"""What several command lines do alike: options in, files and text on the terminal out."""
