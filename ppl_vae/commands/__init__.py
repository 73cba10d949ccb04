"""What the commands do, one file a command: from options to a run folder, and back from one.

Nothing heavy is imported before a command needs it.
"""
