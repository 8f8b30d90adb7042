"""`zlpr-jax generate RUN --prompt "..."`: go on with a text."""

from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.commands._language_model import TEXT, load_language_model, read_prompt
from zlpr_jax.commands._seed import seeded
from zlpr_jax.data.vocabulary import END, UNKNOWN
from zlpr_jax.models.generation import Sampling, make_generate

# New tokens where --new does not say, if the context has room for them.
NEW = 200
MOST = 100


def run(
    run_path: str,
    prompt: str,
    new: int | None,
    greedy: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float,
    n: int,
    seed: int,
) -> None:
    """Print the prompt and what follows, up to the end of the text.

    Args:
        run_path: The run folder.
        prompt: How the text begins; may be empty.
        new: Tokens to add at most, >= 1; `None` for what the context has room for, 200
            at most.
        greedy: Whether to take the most likely token each time.
        temperature: See `Sampling`, as the following.
        top_k: Only so many tokens.
        top_p: Only tokens of this probability together.
        repetition_penalty: For tokens that the text has.
        n: How many texts, in `[1, 100]`.
        seed: Seeds the draws, in `[0, 2^32 - 1]`.
    """
    if not 1 <= n <= MOST:
        raise InputError(f"--n must be in [1, {MOST}], got {n}.")
    if greedy and (n > 1 or (temperature, top_k, top_p) != (1, None, None)):
        raise InputError(
            "--greedy always takes the most likely token: leave it out, or --n, "
            "--temperature, --top-k and --top-p."
        )
    if new is not None and new < 1:
        raise InputError(f"--new must be >= 1, got {new}.")
    try:
        sampling = Sampling(
            greedy=greedy,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            suppress_tokens=(UNKNOWN,),
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    model = load_language_model(Path(run_path), (TEXT,))
    vocabulary = model.vocabulary
    assert vocabulary is not None
    tokens = read_prompt(vocabulary, prompt)
    most = model.config.max_length
    room = most - len(tokens)
    if room < (new or 1):
        added, ends = f" and --new adds {new}", ""
        if new is None:
            added, ends = "", ", with what is added"
        remedy = f", or give --new {room}" if room > 0 else ""
        raise InputError(
            f"the prompt has {len(tokens)} tokens with <end> before it{added}, but a "
            f"text has {most} at most{ends}: shorten the prompt{remedy}."
        )
    try:
        generate = make_generate(
            model.config, new=new or min(NEW, room), sampling=sampling, stop=(END,)
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    texts = generate(model.params, model.state, [tokens] * n, key=seeded(seed))
    given = vocabulary.decode(tokens[1:])
    for number, text in enumerate(texts):
        if number:
            print("---")
        # without the end; what is given comes first in what is decoded
        ended = text[:-1] if text[-1] == END else text
        added = vocabulary.decode([*tokens[1:], *ended])[len(given) :]
        shown = prompt if vocabulary.level == "character" else prompt.rstrip(" \t")
        print(shown + added)
