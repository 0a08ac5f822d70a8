"""AutoWU inside other people's trainers, one module each; a module imports its own framework alone.

    lightning.py     AutoWUCallback, for Lightning's Trainer
    transformers.py  AutoWUTrainer and AutoWUMixin, for Hugging Face's Trainer
    accelerate.py    step, for a loop with Accelerate
    timm.py          AutoWUScheduler, for timm's train script

Nothing is imported here: whoever uses one of them needs none of the others.
"""
