"""``task: counting``: how often an action is repeated in a video, against how often it was counted."""
