"""What C computes on a CPU: rank rows of few tokens, and linear layers in the form in which a base is held.

Built with the package where there is a C compiler, for every processor of the architecture; where there
is none, PyTorch computes the same.
"""
