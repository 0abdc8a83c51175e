"""Whether what builds and training need works on this machine, and how to mend what does not."""
