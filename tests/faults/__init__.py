"""Kills runs at random moments and demands that what they become is what an undisturbed run became, bit for bit.

``python -m tests.faults --kills=200`` prints a table of fault × moment × outcome; exit status 1 where anything differs.
"""
