"""Fine-tuning: from a pre-trained model to one for a purpose."""

from .adapter import load_adapter, save_adapter
from .answers import SampledAnswer, generate_answers, sample_answers
from .classification_batches import ClassificationBatches
from .classification_data import (LabelledText, LabelledTexts, balanced_weights, encode_text, label_numbers,
                                  load_labelled_texts, read_labelled_texts)
from .classification_evaluation import ClassificationEvaluation, evaluate_classifier, log_probabilities
from .dpo import DPO, answer_logprobs, reference_logprobs
from .instructions import Conversation, read_instructions, spread
from .lora import add_lora, merge, merging
from .packing import ExampleBatches, in_order
from .peft import load_peft, save_peft
from .preferences import (EncodedPair, PairBatches, Pairs, Preference, PreferenceEvaluation, evaluate_pairs,
                          read_preferences)
from .prompts import Form, Prompt, read_prompts
from .reinforce import BASELINES, Reinforce
from .reward_model import BradleyTerry, ModelReward, require_reward_model
from .rewards import FunctionReward, reward_function
from .rollouts import AnswerMeans, RolloutEvaluation, Rollouts
from .templates import TEMPLATES, Ending, Message, Template, Turn, encode_answer, encode_turns, ending

__all__ = ["BASELINES", "DPO", "TEMPLATES", "AnswerMeans", "BradleyTerry", "ClassificationBatches",
           "ClassificationEvaluation", "Conversation", "EncodedPair", "Ending", "ExampleBatches", "Form",
           "FunctionReward", "LabelledText", "LabelledTexts", "Message", "ModelReward", "PairBatches", "Pairs",
           "Preference", "PreferenceEvaluation", "Prompt", "Reinforce", "RolloutEvaluation", "Rollouts",
           "SampledAnswer", "Template", "Turn", "add_lora", "answer_logprobs", "balanced_weights", "encode_answer",
           "encode_text", "encode_turns", "ending", "evaluate_classifier", "evaluate_pairs", "generate_answers",
           "in_order", "label_numbers", "load_adapter", "load_labelled_texts", "load_peft", "log_probabilities",
           "merge", "merging", "read_instructions", "read_labelled_texts", "read_preferences", "read_prompts",
           "reference_logprobs", "require_reward_model", "reward_function", "sample_answers", "save_adapter",
           "save_peft", "spread"]
