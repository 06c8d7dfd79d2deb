"""The one LoRA form: per linear module an arena of rank rows, and per token a weight for each row.

    Y += ((X @ A_active.T) * S) @ B_active          S[t, p] = weight of row p for token t

One adapter is a block of ones in a row of S, a blend is several blocks, the base is a row of zeros.
"""
