"""Jobs over files of any size that nothing breaks: streaming, exactly once, on many devices.

``job`` holds the contract of what a job does with its rows and runs it in one process; ``predict``
runs the same job through Lightning, ``ray`` on a cluster. Slot ``s`` of a job is sample
``s % num_samples`` of row ``s // num_samples``; slots are processed and committed in chunks.
"""
