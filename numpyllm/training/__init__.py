"""Training: configuration, optimiser, schedule, loop, checkpoints."""

from .checkpoint import best_checkpoint, load_checkpoint, load_model, newest_checkpoint, save_checkpoint
from .config import TrainConfig
from .evaluate import Evaluation, evaluate
from .observer import Observer
from .optimizer import SGD, AdamW, clip_scale, gradient_norm, group_norms
from .run_folder import RunFolder
from .schedule import learning_rate
from .trainer import StepResult, Trainer, TrainingDiverged

__all__ = ["SGD", "AdamW", "Evaluation", "Observer", "RunFolder", "StepResult", "TrainConfig", "Trainer", "TrainingDiverged",
           "best_checkpoint", "clip_scale", "evaluate", "gradient_norm", "group_norms", "learning_rate", "load_checkpoint",
           "load_model", "newest_checkpoint", "save_checkpoint"]
