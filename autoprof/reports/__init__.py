"""What a person reads, made from the store: one file is one view."""
