"""All kinds of instructions, by the ids that IFEval gives them; the set's own spellings of parameters are kept."""

from __future__ import annotations

from collections.abc import Mapping

from lightship.evaluation.tasks.scorers.instructions import (
    combination,
    content,
    formats,
    keywords,
    languages,
    lengths,
    letter_case,
    wrapping,
)
from lightship.evaluation.tasks.scorers.instructions.instruction import (
    Instruction,
    character,
    one_of,
    relation,
    text,
    texts,
    whole,
)

INSTRUCTIONS: Mapping[str, Instruction] = {
    "change_case:capital_word_frequency": Instruction(
        letter_case.has_capital_words, {"capital_frequency": whole(0), "capital_relation": relation}
    ),
    "change_case:english_capital": Instruction(letter_case.is_english_capital),
    "change_case:english_lowercase": Instruction(letter_case.is_english_lowercase),
    "combination:repeat_prompt": Instruction(combination.repeats_prompt, {"prompt_to_repeat": text}),
    "combination:two_responses": Instruction(combination.has_two_responses),
    "detectable_content:number_placeholders": Instruction(content.has_placeholders, {"num_placeholders": whole(0)}),
    "detectable_content:postscript": Instruction(content.has_postscript, {"postscript_marker": text}),
    "detectable_format:constrained_response": Instruction(formats.is_constrained),
    "detectable_format:json_format": Instruction(formats.is_json),
    "detectable_format:multiple_sections": Instruction(
        formats.has_sections, {"section_spliter": text, "num_sections": whole(1)}
    ),
    "detectable_format:number_bullet_lists": Instruction(formats.has_bullets, {"num_bullets": whole(0)}),
    "detectable_format:number_highlighted_sections": Instruction(formats.has_highlights, {"num_highlights": whole(0)}),
    "detectable_format:title": Instruction(formats.has_title),
    "keywords:existence": Instruction(keywords.has_keywords, {"keywords": texts}),
    "keywords:forbidden_words": Instruction(keywords.has_no_forbidden_word, {"forbidden_words": texts}),
    "keywords:frequency": Instruction(
        keywords.has_keyword_count, {"keyword": text, "frequency": whole(0), "relation": relation}
    ),
    "keywords:letter_frequency": Instruction(
        keywords.has_letter_count, {"letter": character, "let_frequency": whole(0), "let_relation": relation}
    ),
    "language:response_language": Instruction(
        languages.is_in_language, {"language": one_of(languages.LANGUAGES, "the code of a language that can be told")}
    ),
    "length_constraints:nth_paragraph_first_word": Instruction(
        lengths.has_first_word, {"num_paragraphs": whole(1), "nth_paragraph": whole(1), "first_word": text}
    ),
    "length_constraints:number_paragraphs": Instruction(lengths.has_paragraphs, {"num_paragraphs": whole(1)}),
    "length_constraints:number_sentences": Instruction(
        lengths.has_sentence_count, {"num_sentences": whole(0), "relation": relation}
    ),
    "length_constraints:number_words": Instruction(
        lengths.has_word_count, {"num_words": whole(0), "relation": relation}
    ),
    "punctuation:no_comma": Instruction(wrapping.has_no_comma),
    "startend:end_checker": Instruction(wrapping.ends_with, {"end_phrase": text}),
    "startend:quotation": Instruction(wrapping.is_quoted),
}
