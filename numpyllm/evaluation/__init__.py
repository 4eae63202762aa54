"""How good is a model, and compared with what?"""

from .baselines import gzip_bits_per_byte, unigram_bits_per_byte
from .choice import Answered, Question, answer_questions, checker, read_questions
from .loglikelihood import Scored, encode_pair, log_likelihoods
from .metrics import accuracy, confidence_interval, confusion_matrix, f1, macro_f1, matthews, pearson, ranks, spearman
from .perplexity import Perplexity, check_windows, count_words, default_window, perplexity
from .results import for_json, number, summarise, table
from .tasks import TASKS, Task, read_task

__all__ = ["TASKS", "Answered", "Perplexity", "Question", "Scored", "Task", "accuracy", "answer_questions", "check_windows", "checker",
           "confidence_interval", "confusion_matrix", "count_words", "default_window", "encode_pair", "f1", "for_json",
           "gzip_bits_per_byte", "log_likelihoods", "macro_f1", "matthews", "number", "pearson", "perplexity", "ranks", "read_questions",
           "read_task", "spearman", "summarise", "table", "unigram_bits_per_byte"]
