"""relayproxy: an SMTP man-in-the-middle relay and traffic recorder.

Five sentences that every module keeps:

1. Parse to understand, forward the original: what no rule touches leaves as it came.
2. Upstream answers: every reply that relayproxy writes itself is named on one page, `smtp/local_replies.py`.
3. Rules decide, records tell: rules are pure functions; recording is one-way and never changes the mail.
4. Hold as little as the rules require: when envelope and DATA may leave is computed from the rule set.
5. Nothing grows with the message: every buffer has a named limit, bodies are chunks, what waits waits on disk.
"""

__version__ = "0.1.0"
