"""Events of any list: best tracks, overpasses, field campaigns."""
