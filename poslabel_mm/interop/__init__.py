"""Weights in and out: for other libraries, and other libraries' weights for a config.

Tables of names (:mod:`.vit_keys`, :mod:`.swin_keys`, :mod:`.hugging_face_keys`) are read in both
directions by :mod:`.key_map`; :mod:`.exporting` and :mod:`.importing` are the two commands.
"""
