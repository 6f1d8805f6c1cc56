"""What tests of other programs use: a relay in their own process that has kept all their mail, and a server made of recordings (DESIGN §8).

A composition root, as cli is, and loaded by pytest (plugin.py) in every run of every project that has relayproxy installed: until a test asks for it nothing is imported.
"""
