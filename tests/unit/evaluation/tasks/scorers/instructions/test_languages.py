from __future__ import annotations

import unicodedata

import pytest

from lightship.evaluation.tasks.scorers.instructions.languages import LANGUAGES, main_script, may_be_in

# One sentence of each language, written for this test: "The small house stands by the river, and the children play ..."
SENTENCES = {
    "ar": "البيت الصغير يقف بجانب النهر، والأطفال يلعبون في الحديقة مع الكلب الذي جاء من القرية.",
    "bg": "Малката къща е до реката и децата играят в градината с кучето, което дойде от селото.",
    "bn": "ছোট বাড়িটি নদীর পাশে দাঁড়িয়ে আছে এবং শিশুরা বাগানে খেলছে।",
    "de": "Das kleine Haus steht am Fluss, und die Kinder spielen mit dem Hund im Garten.",
    "en": "The small house stands by the river, and the children play with the dog in the garden.",
    "es": "La casa pequeña está junto al río y los niños juegan con el perro en el jardín.",
    "fa": "خانه کوچک در کنار رودخانه است و کودکان با سگ در باغ بازی می‌کنند.",
    "fi": "Pieni talo on joen vieressä, ja lapset leikkivät koiran kanssa puutarhassa, kun he ovat kotona.",
    "fr": "La petite maison est au bord de la rivière et les enfants jouent avec le chien dans le jardin.",
    "gu": "નાનું ઘર નદીની બાજુમાં છે અને બાળકો બગીચામાં રમે છે.",
    "he": "הבית הקטן עומד ליד הנהר והילדים משחקים עם הכלב בגינה.",
    "hi": "छोटा घर नदी के पास है और बच्चे बगीचे में कुत्ते के साथ खेल रहे हैं।",
    "it": "La piccola casa è vicino al fiume e i bambini giocano con il cane nel giardino.",
    "ja": "小さな家は川のそばにあり、子供たちは庭で犬と遊んでいます。",
    "kn": "ಚಿಕ್ಕ ಮನೆ ನದಿಯ ಪಕ್ಕದಲ್ಲಿದೆ ಮತ್ತು ಮಕ್ಕಳು ತೋಟದಲ್ಲಿ ಆಡುತ್ತಿದ್ದಾರೆ.",
    "ko": "작은 집은 강가에 있고 아이들은 정원에서 개와 놀고 있습니다.",
    "ml": "ചെറിയ വീട് നദിയുടെ അരികിലാണ്, കുട്ടികൾ തോട്ടത്തിൽ കളിക്കുന്നു.",
    "mr": "लहान घर नदीच्या काठावर आहे आणि मुले बागेत कुत्र्यासोबत खेळत आहेत.",
    "ne": "सानो घर नदीको छेउमा छ र केटाकेटीहरू बगैंचामा कुकुरसँग खेलिरहेका छन्।",
    "pa": "ਛੋਟਾ ਘਰ ਨਦੀ ਦੇ ਕੋਲ ਹੈ ਅਤੇ ਬੱਚੇ ਬਾਗ ਵਿੱਚ ਖੇਡ ਰਹੇ ਹਨ।",
    "pl": "Mały dom stoi nad rzeką, a dzieci bawią się z psem w ogrodzie, bo jest ciepło.",
    "pt": "A casa pequena fica junto ao rio e as crianças brincam com o cão no jardim.",
    "ru": "Маленький дом стоит у реки, и дети играют в саду с собакой, которая пришла из деревни.",
    "sw": "Nyumba ndogo iko karibu na mto na watoto wanacheza na mbwa katika bustani ya kijiji.",
    "ta": "சிறிய வீடு ஆற்றின் அருகில் உள்ளது, குழந்தைகள் தோட்டத்தில் விளையாடுகிறார்கள்.",
    "te": "చిన్న ఇల్లు నది పక్కన ఉంది మరియు పిల్లలు తోటలో ఆడుకుంటున్నారు.",
    "th": "บ้านหลังเล็กอยู่ริมแม่น้ำและเด็ก ๆ เล่นกับสุนัขในสวน",
    "uk": "Маленький будинок стоїть біля річки, і діти граються в саду з собакою.",
    "ur": "چھوٹا گھر دریا کے پاس ہے اور بچے باغ میں کتے کے ساتھ کھیل رہے ہیں۔",
    "vi": "Ngôi nhà nhỏ nằm bên sông và các em bé đang chơi với con chó trong vườn.",
    "zh": "小房子在河边，孩子们在花园里和狗玩。",
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_may_be_in_a_sentence_is_in_its_language_and_in_no_other(code: str) -> None:
    assert [other for other in LANGUAGES if may_be_in(SENTENCES[code], other)] == [code]


def test_may_be_in_decomposed_letters_are_the_same_letters() -> None:
    assert may_be_in(unicodedata.normalize("NFD", SENTENCES["vi"]), "vi")
    assert not may_be_in(unicodedata.normalize("NFD", SENTENCES["vi"]), "en")


def test_may_be_in_text_without_small_words_may_be_any_of_its_writing() -> None:
    assert may_be_in("Peace!", "en")
    assert may_be_in("Peace!", "de")
    assert not may_be_in("Peace!", "ru")


def test_may_be_in_text_without_letters_is_in_none() -> None:
    assert not any(may_be_in("12 + 3 = 15 !", code) for code in LANGUAGES)
    assert not may_be_in("", "en")


def test_main_script_is_that_of_most_letters() -> None:
    assert main_script("Слово and") == "cyrillic"
    assert main_script("漢字かな") == "kana"
    assert main_script("漢字") == "han"
    assert main_script("ⴰⴱ") == "other"
