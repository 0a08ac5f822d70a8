"""What train.py is made of; the only part of autowu that knows YAML, data sets and run directories.

Nothing is imported here: `autowu.trainer.config` must stay usable without loading torch.
"""
