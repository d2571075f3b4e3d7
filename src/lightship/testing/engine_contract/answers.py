"""Checks on what an engine answers."""

from __future__ import annotations

import json
from typing import Any

from lightship.engines.base import EngineFeature, EngineQuirk
from lightship.testing.engine_contract.checks import Checks
from lightship.testing.engine_contract.subject import PROMPT, EngineUnderTest, Stream, expect

ANSWERS = Checks()
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
# Letters of several alphabets, and characters of one to four bytes: what tokenizers split in the middle.
ANY_CHARACTERS = "Zoë said: “日本 😀” – "
# Larger than the KV block of any engine here.
LONG_PROMPT = "an entirely new beginning of a tale " * 40
SCHEMA = {"type": "json_schema", "json_schema": {"name": "color", "schema": {"enum": ["red", "green"]}}}


@ANSWERS.needing()
def health_is_told(engine: EngineUnderTest) -> None:
    """The first of the usual paths that it has says 200."""
    status = engine.ask("GET", "/health/ready").status
    expect((status if status != 404 else engine.ask("GET", "/health").status) == 200, "it is not healthy")


@ANSWERS.needing()
def models_are_listed(engine: EngineUnderTest) -> None:
    listed = engine.ask("GET", "/v1/models").document
    expect(listed["object"] == "list", "no list of models")
    expect({engine.model, *engine.adapters} <= {one["id"] for one in listed["data"]}, "a model is not listed")


@ANSWERS.needing(EngineFeature.COMPLETIONS)
def completion_has_text_and_usage(engine: EngineUnderTest) -> None:
    reply = engine.complete(max_tokens=12, temperature=0, **engine.goes_on)
    [choice], usage = reply["choices"], reply["usage"]
    expect(choice["text"], "there is no text")
    expect((choice["index"], choice["finish_reason"]) == (0, "length"), f"it ended by {choice['finish_reason']}")
    expect(usage["completion_tokens"] == 12, f"12 tokens are counted as {usage['completion_tokens']}")
    expect(usage["prompt_tokens"] > 0, "the prompt is not counted")
    expect(usage["total_tokens"] == usage["prompt_tokens"] + 12, "the total is no sum")
    expect(
        (reply["object"], reply["model"]) == ("text_completion", engine.model), "the answer is called something else"
    )


def _same_greedy(engine: EngineUnderTest) -> dict[str, Any]:
    return {"temperature": 0, "max_tokens": 48, **engine.goes_on}


@ANSWERS.needing(EngineFeature.COMPLETIONS)
def completion_streamed_equals_whole(engine: EngineUnderTest) -> None:
    engine.complete(**_same_greedy(engine))  # from here on the prompt is cached: same inputs, same arithmetic
    whole = engine.text(**_same_greedy(engine))
    stream = engine.stream(COMPLETIONS, **_same_greedy(engine), stream_options={"include_usage": True})
    _check_stream(stream, whole=whole, num_tokens=48, has_own_usage=not engine.has(EngineQuirk.USAGE_WITH_LAST_TEXT))


@ANSWERS.needing(EngineFeature.CHAT)
def chat_streamed_equals_whole(engine: EngineUnderTest) -> None:
    engine.chat(**_same_greedy(engine))
    [choice] = engine.chat(**_same_greedy(engine))["choices"]
    expect(choice["message"]["role"] == "assistant", f"the role is {choice['message']['role']!r}")
    stream = engine.stream(CHAT, **_same_greedy(engine), stream_options={"include_usage": True})
    roles = [one["delta"].get("role") for event in stream.events for one in event["choices"]]
    expect([role for role in roles if role] == ["assistant"], f"the roles of the stream are {roles}")
    expect(roles[0] == "assistant", "the role does not come first")
    _check_stream(stream, whole=choice["message"]["content"], num_tokens=48)


def _check_stream(stream: Stream, *, whole: str, num_tokens: int, has_own_usage: bool = True) -> None:
    expect("".join(stream.texts) == whole, f"streamed {''.join(stream.texts)!r}, whole {whole!r}")
    expect(len(stream.texts) > num_tokens // 4, f"{num_tokens} tokens came in {len(stream.texts)} pieces")
    expect(stream.finish_reasons == ["length"], f"it ended by {stream.finish_reasons}")
    expect(stream.is_done, "it ended without [DONE]")
    expect(len({event["id"] for event in stream.events}) == 1, "its events have several ids")
    last = stream.events[-1]
    expect((last["choices"] == []) is has_own_usage, "the last event has choices, not usage alone, or the reverse")
    expect(last["usage"]["completion_tokens"] == num_tokens, f"usage is {last['usage']}")
    expect(not any(event.get("usage") for event in stream.events[:-1]), "usage came before the end")


@ANSWERS.needing(EngineFeature.COMPLETIONS)
def stream_without_usage_tells_none(engine: EngineUnderTest) -> None:
    stream = engine.stream(COMPLETIONS, max_tokens=4, **engine.goes_on)
    expect(stream.is_done, "it ended without [DONE]")
    is_told = any(event.get("usage") for event in stream.events)
    expect(is_told is engine.has(EngineQuirk.USAGE_WITH_LAST_TEXT), "usage was told unasked, or the reverse")


@ANSWERS.needing(EngineFeature.RUNNING_USAGE)
def running_usage_counts_up(engine: EngineUnderTest) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = engine.stream(COMPLETIONS, max_tokens=20, temperature=0, stream_options=options, **engine.goes_on)
    counts = [event["usage"]["completion_tokens"] for event in stream.events]
    expect(counts == sorted(counts), f"it counts {counts}")
    expect(counts[-1] == 20, f"20 tokens are counted as {counts[-1]}")


@ANSWERS.needing(EngineFeature.COMPLETIONS)
def stop_string_across_tokens_ends_the_text_before_it(engine: EngineUnderTest) -> None:
    engine.text(**_same_greedy(engine))
    text = engine.text(**_same_greedy(engine))
    stop = text[len(text) // 2 :][:15]
    before = text[: text.index(stop)]
    reply = engine.complete(**_same_greedy(engine), stop=[stop, "never said"])
    [choice] = reply["choices"]
    expect(choice["text"] == before, f"stopped at {stop!r} it is {choice['text']!r}")
    expect(choice["finish_reason"] == "stop", f"it ended by {choice['finish_reason']}")
    expect(reply["usage"]["completion_tokens"] < 48, "it went on behind the scenes")
    streamed = engine.stream(COMPLETIONS, **_same_greedy(engine), stop=stop)
    expect("".join(streamed.texts) == before, f"streamed it is {''.join(streamed.texts)!r}")


@ANSWERS.needing(EngineFeature.SEED)
def seed_makes_a_text_repeatable(engine: EngineUnderTest) -> None:
    def text(**fields: Any) -> str:
        return engine.text(max_tokens=24, **engine.goes_on, **fields)

    text(seed=7)
    expect(text(seed=7) == text(seed=7), "the same seed gave two texts")
    expect(text(seed=7) != text(seed=8), "two seeds gave one text")
    expect(text() != text(), "without a seed it said the same twice")
    expect(text(temperature=0, seed=1) == text(temperature=0, seed=2), "greedy, the seed made a difference")


@ANSWERS.needing(EngineFeature.MANY_CHOICES)
def choices_are_numbered_and_differ(engine: EngineUnderTest) -> None:
    reply = engine.complete(n=2, max_tokens=24, **engine.goes_on)
    expect(sorted(one["index"] for one in reply["choices"]) == [0, 1], "the choices are not numbered 0, 1")
    expect(len({one["text"] for one in reply["choices"]}) == 2, "both choices say the same")
    counted = 24 if engine.has(EngineQuirk.USAGE_OF_ONE_CHOICE) else 48
    expect(reply["usage"]["completion_tokens"] == counted, f"usage is {reply['usage']}")


@ANSWERS.needing(EngineFeature.COMPLETIONS)
def several_prompts_are_answered_in_order(engine: EngineUnderTest) -> None:
    prompts = [PROMPT, "The dog ran"]
    fields = {"max_tokens": 8, "temperature": 0, **engine.goes_on}
    alone = [engine.complete(prompt=one, **fields)["usage"]["prompt_tokens"] for one in prompts]
    reply = engine.complete(prompt=prompts, **fields)
    expect([one["index"] for one in reply["choices"]] == [0, 1], "the choices are not numbered 0, 1")
    counted = alone[0] if engine.has(EngineQuirk.USAGE_OF_ONE_CHOICE) else sum(alone)
    expect(reply["usage"]["prompt_tokens"] == counted, f"{alone} prompt tokens are counted as {reply['usage']}")


@ANSWERS.needing(EngineFeature.COMPLETIONS)
def any_characters_come_whole(engine: EngineUnderTest) -> None:
    fields = {"prompt": ANY_CHARACTERS, "max_tokens": 40, "temperature": 0, **engine.goes_on}
    engine.text(**fields)
    whole = engine.text(**fields)
    streamed = engine.stream(COMPLETIONS, **fields)
    expect("".join(streamed.texts) == whole, "the streamed text is another one: a character was split")


@ANSWERS.needing(EngineFeature.TOKENIZE)
def tokens_become_their_text_again(engine: EngineUnderTest) -> None:
    reply = engine.ask("POST", "/tokenize", {"model": engine.model, "prompt": PROMPT}).document
    expect(reply["count"] == len(reply["tokens"]), "the count is not that of the tokens")
    by_text = engine.complete(max_tokens=1)["usage"]["prompt_tokens"]
    expect(by_text == reply["count"], f"a prompt of {reply['count']} tokens is counted as {by_text}")
    by_tokens = engine.complete(prompt=reply["tokens"], max_tokens=1)["usage"]["prompt_tokens"]
    expect(by_tokens == reply["count"], "given as tokens, the prompt has another length")
    back = engine.ask("POST", "/detokenize", {"model": engine.model, "tokens": reply["tokens"]}).document["prompt"]
    expect(back.endswith(PROMPT), f"the tokens are the text {back!r}")  # after a special token that begins it


@ANSWERS.needing(EngineFeature.TOKENIZE, EngineFeature.CHAT)
def conversations_are_counted_as_they_are_read(engine: EngineUnderTest) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    counted = engine.ask("POST", "/tokenize", {"model": engine.model, "messages": messages}).document["count"]
    read = engine.chat(max_tokens=1)["usage"]["prompt_tokens"]
    expect(counted == read, f"counted as {counted}, read as {read}")


@ANSWERS.needing(EngineFeature.CACHED_TOKENS)
def repeated_prompt_is_told_to_be_cached(engine: EngineUnderTest) -> None:
    replies = [engine.complete(prompt=LONG_PROMPT, max_tokens=1) for _ in "12"]
    usage = replies[-1]["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    expect(0 < cached <= usage["prompt_tokens"], f"the second time usage is {usage}")


@ANSWERS.needing(EngineFeature.LOGPROBS)
def completion_logprobs_are_of_each_token(engine: EngineUnderTest) -> None:
    [choice] = engine.complete(max_tokens=5, temperature=0, logprobs=3, **engine.goes_on)["choices"]
    if engine.has(EngineQuirk.CHAT_SHAPED_LOGPROBS):
        _check_chat_logprobs(choice["logprobs"]["content"], num_tokens=5)
        return
    found = choice["logprobs"]
    expect(len(found["tokens"]) == len(found["token_logprobs"]) == 5, "not one for each token")
    for chosen, top in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
        expect(chosen <= 0 and abs(chosen - max(top.values())) < 1e-4, f"greedy chose {chosen} of {top}")


@ANSWERS.needing(EngineFeature.CHAT, EngineFeature.TOP_LOGPROBS)
def chat_logprobs_come_best_first(engine: EngineUnderTest) -> None:
    reply = engine.chat(max_tokens=5, temperature=0, logprobs=True, top_logprobs=4, **engine.goes_on)
    _check_chat_logprobs(reply["choices"][0]["logprobs"]["content"], num_tokens=5)


def _check_chat_logprobs(content: list[dict[str, Any]], *, num_tokens: int) -> None:
    expect(len(content) == num_tokens, f"{len(content)} entries for {num_tokens} tokens")
    for entry in content:
        values = [one["logprob"] for one in entry["top_logprobs"]]
        expect(values == sorted(values, reverse=True), f"{values} are not the best first")
        expect(entry["logprob"] <= 0 and abs(entry["logprob"] - values[0]) < 1e-4, "greedy did not choose the best")


@ANSWERS.needing(EngineFeature.PROMPT_LOGPROBS)
def echo_scores_the_prompt(engine: EngineUnderTest) -> None:
    reply = engine.complete(max_tokens=1, temperature=0, echo=True, logprobs=1)
    [choice], found = reply["choices"], reply["choices"][0]["logprobs"]["token_logprobs"]
    expect(choice["text"].startswith(PROMPT), f"the echo is {choice['text']!r}")
    expect(len(found) == reply["usage"]["total_tokens"], f"{len(found)} entries, {reply['usage']}")
    expect(found[0] is None, "the first token has a log-probability, after nothing")
    expect(all(value <= 0 for value in found[1:]) and len(set(found[1:])) > 2, f"they are {found}")


@ANSWERS.needing(EngineFeature.CHAT, EngineFeature.STRUCTURED_OUTPUT)
def schema_is_kept(engine: EngineUnderTest) -> None:
    [choice] = engine.chat(max_tokens=24, temperature=0, response_format=SCHEMA)["choices"]
    expect(json.loads(choice["message"]["content"]) in {"red", "green"}, f"it said {choice['message']['content']!r}")


@ANSWERS.needing(EngineFeature.LORA)
def adapters_answer_under_their_names(engine: EngineUnderTest) -> None:
    base = engine.text(**_same_greedy(engine))
    for name in engine.adapters:
        reply = engine.complete(**{**_same_greedy(engine), "model": name})
        expect(reply["model"] == name, f"{name} was answered by {reply['model']}")
        expect(reply["choices"][0]["text"] != base, f"{name} says the same as its base model")


@ANSWERS.needing(EngineFeature.VARIANT_HEADER)
def variant_is_told(engine: EngineUnderTest) -> None:
    answer = engine.ask("POST", COMPLETIONS, {"model": engine.model, "prompt": "hi", "max_tokens": 1})
    expect(answer.headers.get("x-served-variant"), "the answer does not say its variant")
    expect(answer.headers.get("x-request-id"), "the answer does not say its request id")
    listed = [one["id"] for one in engine.ask("GET", "/v1/models").document["data"]]
    named = [one for one in listed if one.startswith(f"{engine.model}@")]
    expect(named, f"no model@variant is among {listed}")
    engine.complete(model=named[0], max_tokens=1)
