"""What an adapter is, where it lives and how it is applied. Imports nothing of ours."""
