"""Train a tiny language model on the shared texts, for a few steps on whatever device there is."""

from datasets import Dataset
from example_texts import TEXTS
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

LETTERS = sorted(set("".join(TEXTS)))


def example(text: str) -> dict[str, list[int]]:
    numbers = [LETTERS.index(letter) for letter in text[:32].ljust(32)]
    return {"input_ids": numbers, "labels": numbers}


def main() -> None:
    config = GPT2Config(vocab_size=len(LETTERS), n_positions=32, n_embd=32, n_layer=2, n_head=2)
    arguments = TrainingArguments(output_dir="out", max_steps=20, learning_rate=0.01, save_strategy="no", report_to=[])
    data = Dataset.from_list([example(text) for text in TEXTS])
    trained = Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=data).train()
    print(f"trained {trained.global_step} steps on {len(TEXTS)} texts, loss {trained.training_loss:.2f}")


if __name__ == "__main__":
    main()
