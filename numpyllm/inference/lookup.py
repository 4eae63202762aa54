"""Speculative decoding by prompt lookup (Saxena 2023; Leviathan et al. 2023): what followed the last time may follow again.

The last few tokens are looked for in the text so far, and what came after them is guessed to come now. One pass computes the
logits after all guesses, for hardly more than the time of one, since reading the weights is what takes the time. Then each token
is chosen as it would have been without guessing, from the same logits and with the same draw, until one differs from its guess; the rest
is forgotten. So the text is the same with guesses as without, whatever the sampling: a wrong guess costs time, nothing else.
"""

LONGEST = 4         # tokens looked for, at most


def propose(tokens, most):
    """Up to `most` tokens that may follow: what followed the latest earlier place where the last LONGEST tokens stand, or fewer."""
    for n in range(min(LONGEST, len(tokens) - 1), 0, -1) if most > 0 else ():
        end = tokens[-n:]
        for start in range(len(tokens) - n - 1, -1, -1):
            if tokens[start:start + n] == end:
                return tokens[start + n:start + n + most]
    return []
