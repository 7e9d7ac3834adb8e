"""The trainers: supervised fine-tuning, the preference model, and RL, each thin over TRL."""
