"""Does a corpus keep each row once, through kills and full disks, and what does that cost? `make prove-corpus` asks.

Everything goes through the command line, as a person would call it; processes are killed from outside, or at named
points by an audit hook that Python loads, never by a switch in the code.
"""
