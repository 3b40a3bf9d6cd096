"""What Freshet is measured against: simple lists and label models, judged as learned models are (`core.contender`)."""
