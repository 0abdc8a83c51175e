"""The job: one run of a build, whatever its source, in five steps that can each be taken up again.

What all builds share lies here: the claim of the folder, the ledger, the steps, progress, errors and exit code. What a
source brings is described in :mod:`cube.job.source`.
"""
