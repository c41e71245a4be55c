"""Readers and writers of published annotation, prediction and ranking formats.

Every reader checks what it reads: a wrong file says what it looks like and what was expected.
"""
