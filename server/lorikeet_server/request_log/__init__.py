"""What was asked and answered, kept on the disk where the operator wants it, and made into rows to train on."""
