"""Prompts for comparing tokenizers: many scripts, white space and control characters, emoji, contractions, HTML, combining
marks, special tokens, and known special cases of lower-casing and normalisation."""

import random

ENGLISH = [
    "a photo of a cat",
    "A Photo Of A CAT",
    "a painting of a squirrel eating a burger",
    "masterpiece, best quality, 1girl, solo, (smiling:1.2), [hat], {{detailed}}",
    "portrait of an astronaut riding a horse on mars, 8k, trending on artstation",
    "the quick brown fox jumps over the lazy dog",
    "antidisestablishmentarianism floccinaucinihilipilification",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "supercalifragilisticexpialidocious!!!",
    "hello, world! how are you? fine; thanks: bye.",
    "state-of-the-art, well-known, e-mail, x-ray",
    "3.14159 2.71828 1,000,000 1e-5 0x7fff 12:30pm 50% $9.99 #1 @home",
    "2024-01-31T12:00:00Z v1.5.1-rc2",
    "https://example.org/path?query=1&other=two#anchor",
    "user.name+tag@example.co.uk",
    "C++ & C# / F# | rust? go! <tag attr=\"v\">text</tag>",
    "f(x) = x^2 + 2*x - 1 >= 0 && y != 3 || z",
    "snake_case camelCase PascalCase SCREAMING_SNAKE kebab-case",
    "\"quoted\" 'single' `back` ``double'' (paren) [bracket] {brace}",
    "...---___***///\\\\\\|||~~~^^^",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababababababab",
    "x" * 300,
    "very " * 60 + "long prompt",
    "lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna",
]

CONTRACTIONS = [
    "I'm you're he's we've they'll I'd don't",
    "I'M YOU'RE HE'S WE'VE THEY'LL I'D DON'T",
    "it's 'tis 'twas o'clock rock'n'roll",
    "dogs' tails, James's book, '90s music, the '80s",
    "'s't're've'm'll'd",
    "''s ''' 's' x's's'd'll",
    "I\u2019m you\u2019re it\u2019s don\u2019t",
    "'sun 'tree 'red 'very 'man 'llama 'dog",
    "can't've shouldn't've y'all'd've",
    "'S 'T 'RE",
    "a's 1's !'s \u00e9's \u4e2d's",
    "'\u017f",
]

SPACES = [
    "",
    " ",
    "     ",
    "\t",
    "\n",
    "\r\n",
    "  leading and trailing  ",
    "two  spaces   three\ttab\t\ttabs\nnewline\r\nwindows\rold mac",
    "form\x0cfeed vertical\x0btab",
    "no\u00a0break en\u2002quad em\u2003space thin\u2009space hair\u200aspace",
    "ideographic\u3000space ogham\u1680space narrow\u202fnbsp math\u205fspace",
    "line\u2028separator paragraph\u2029separator",
    "next\u0085line",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u2060word",
    "mongolian\u180evowel separator",
    "\u200b",
    "\u3000\u3000",
    "\ufeffbyte order mark",
    "soft\u00adhyphen",
    "unit\x1fseparator record\x1eseparator group\x1dfile\x1cseparator",
]

CONTROLS = [
    "nul\x00in the middle",
    "\x00",
    "bell\x07backspace\x08escape\x1b[31mred\x1b[0m",
    "delete\x7fhere",
    "\x01\x02\x03\x04\x05\x06",
    "c1\x80\x81\x9f controls",
    "object\ufffcreplacement\ufffdcharacter",
    "noncharacters \ufffe\uffff\U0001fffe",
    "private \ue000\uf8ff\U000f0000 use",
    "ltr\u200ertl\u200fmarks \u202aembedding\u202c \u202eoverride\u202c \u2066isolate\u2069",
    "tags \U000e0001\U000e0041\U000e007f",
    "around surrogates \ud7ff\ue000",
]

HTML = [
    "<b>bold</b> &amp; &lt;i&gt; &quot;x&quot; &#39; &#x27; &nbsp;",
    "Tom &amp;amp; Jerry",
    "<!-- comment --><br/><img src='a.png'/>",
    "&copy; 2024 &mdash; all rights reserved &hellip;",
    "<script>alert('hi')</script>",
]

SPECIAL = [
    "<|endoftext|>",
    "<|startoftext|>",
    "<|startoftext|>a cat<|endoftext|>",
    "a<|endoftext|>b",
    "<|ENDOFTEXT|> <|EndOfText|> <|StartOfText|>",
    "<|endoftext|><|endoftext|><|endoftext|>",
    "<|endoftext|",
    "|endoftext|>",
    "<|end of text|>",
    "<| endoftext |>",
    "<<|endoftext|>>",
    "!<|endoftext|>!<|startoftext|>!",
    "  <|endoftext|>  padded  <|startoftext|>  ",
    "</w>",
    "cat</w> <w> </w></w>",
    "<|endoftext|>\u0301",
    "<\u200b|endoftext|>",
    "[PAD] [CLS] <s> </s> <pad> <unk>",
    "!!!! ! wow! a!b !",
    "<cat-toy> in the style of <my-style>",
]

LATIN = [
    "caf\u00e9 na\u00efve r\u00e9sum\u00e9 jalape\u00f1o cr\u00e8me br\u00fbl\u00e9e",
    "cafe\u0301 nai\u0308ve re\u0301sume\u0301",
    "\u00c5ngstr\u00f6m \u212b \u0041\u030a",
    "Stra\u00dfe STRASSE \u1e9e gro\u00df Fu\u00df",
    "\u0130stanbul I\u0131 \u0130\u0131iI T\u00dcRK\u0130YE",
    "\u0130",
    "i\u0307 \u0049\u0307",
    "\u00c6on \u0152uvre \u00de\u00f3r \u00d0 \u0141\u00f3d\u017a",
    "\ufb01sh \ufb02ower e\ufb00ect o\ufb03ce \ufb06",
    "\u01c4 \u01c5 \u01c6 \u01c7 \u01c8 \u01f1 \u01f2",
    "\u017fong \u017f",
    "ﬁne ﬂat Ｆｕｌｌｗｉｄｔｈ ａｂｃ １２３ ！？",
    "\u1d2c\u1d2e\u1d30 \u2070\u00b9\u00b2\u00b3 \u2080\u2081\u2082 x\u00b2 H\u2082O",
    "\u2460 \u2461 \u24b6\u24d0 \u3251 \u32b1",
    "\u2160\u2161\u2162 \u2170\u2171 \u216f",
    "\u00bd \u00bc \u2153 \u215b",
    "\U0001d400\U0001d401\U0001d402 \U0001d4d0\U0001d4d1 \U0001d538 \U0001d7d8\U0001d7d9",
    "\u212a\u212b\u2126 Kelvin \u212a",
    "Vi\u1ec7t Nam \u0110\u1ea1i h\u1ecdc",
    "Vie\u0323\u0302t Nam",
    "Vie\u0302\u0323t Nam",
    "Dvo\u0159\u00e1k \u010cesk\u00e1 \u0160koda \u017de\u013e",
    "\u0218\u021b Rom\u00e2n\u0103 \u015e\u0163",
    "S\u00e3o Paulo, \u00c0 bient\u00f4t, \u00bfqu\u00e9? \u00a1hola!",
    "\u00ab guillemets \u00bb \u201cquotes\u201d \u201elow\u201c \u2039\u203a",
    "\u2013 \u2014 \u2026 \u2022 \u2020 \u2021 \u00a7 \u00b6 \u00a9 \u00ae \u2122",
    "\u20ac\u00a3\u00a5\u20b9\u20bf\u00a2 100\u20ac",
    "\u0300 \u0301alone",
    "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308 zalgo",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a\u032f\u031e\u0320\u034dA\u036b\u0357\u0334\u0362",
    "q\u0307\u0323 q\u0323\u0307",
    "\u1e69 s\u0323\u0307 s\u0307\u0323 \u1e61\u0323 \u1e63\u0307",
]

GREEK_CYRILLIC = [
    "\u039f\u03b4\u03c5\u03c3\u03c3\u03b5\u03cd\u03c2 \u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3",
    "\u03a3\u03a3\u03a3 \u03c3\u03c2 \u03a3\u0391\u03a3 \u03a3",
    "\u1f08\u03c1\u03c7\u03ae \u1f80 \u1fb3 \u1fbc \u0345",
    "\u03b1\u0301 \u03ac \u1f71 \u03ca\u0301 \u0390",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u043e\u0448\u043a\u0430 \u043d\u0430 \u043e\u043a\u043d\u0435",
    "\u0419 \u0418\u0306 \u0439 \u0438\u0306 \u0401 \u0415\u0308",
    "\u040f\u040b\u0402 \u0453\u045c \u0490 \u0404\u0407",
    "\u0460 \u0480 \u0483 \u20dd\u0410",
    "\u0531\u0580\u0574\u0565\u0576 \u0540\u0531\u0545 \u0587",
    "\u10a0\u10d0 \u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8 \u1c90\u1c91",
    "\u13a0\u13a1 \uab70\u13f8 Cherokee",
    "\U00010400\U00010428 Deseret",
    "\u2c00\u2c30 Glagolitic",
    "\u03f4 \u0398 \u03d1 \u2c62 \ua64a \u1c80",
    "\ua7ae \u1e9e \ua7b3",
]

OTHER_SCRIPTS = [
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4e00\u53ea\u732b\u7684\u7167\u7247",
    "\u7e41\u9ad4\u4e2d\u6587 \u7b80\u4f53\u4e2d\u6587 \U00020000\U0002a6d6",
    "\uf900\uf901 \ufa0e \u2f00 \U0002f800",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \u732b\u306e\u5199\u771f",
    "\u304c \u304b\u3099 \u30ac \u30ab\u3099 \uff76\uff9e \u3071\u3070\u306f\u309a",
    "\uff8a\uff9d\uff76\uff78 \u309b \u3001\u3002\u300c\u300d\u30fb\u30fc",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4 \uace0\uc591\uc774",
    "\u110b\u1161\u11ab\u1102\u1167\u11bc \u1100\u1161 \uac00 \uac01 \u1100\u1161\u11a8",
    "\u3131\u314f \uffa1 \ua960",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0642\u0637\u0629",
    "\u0627\u0644\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u0651\u064e\u0629 \u0651\u064e \u064e\u0651",
    "\u0660\u0661\u0662\u0663 \u06f0\u06f1\u06f2 \u061f \u060c",
    "\u0622 \u0627\u0653 \u0623 \u0627\u0654 \ufefb \ufdfa",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u05d7\u05ea\u05d5\u05dc",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \ufb2a \u05e9\u05c1 \ufb49",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u092c\u093f\u0932\u094d\u0932\u0940",
    "\u0966\u0967\u0968\u0969 \u0958 \u0915\u093c \u0929 \u0928\u093c",
    "\u09a8\u09ae\u09b8\u09cd\u0995\u09be\u09b0 \u09cb \u09c7\u09be \u09e6\u09e7",
    "\u0a38\u0a24 \u0a5c \u0a21\u0a3c \u0a66",
    "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0bca \u0bc6\u0bbe \u0be6 \u0bf0",
    "\u0c24\u0c46\u0c32\u0c41\u0c17\u0c41 \u0c95\u0ca8\u0ccd\u0ca8\u0ca1 \u0cca \u0d2e\u0d32\u0d2f\u0d3e\u0d33\u0d02",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 \u0e41\u0e21\u0e27 \u0e51\u0e52\u0e53 \u0e33",
    "\u0eaa\u0eb0\u0e9a\u0eb2\u0e8d\u0e94\u0eb5 \u0eb3 \u0edc",
    "\u1019\u103c\u1014\u103a\u1019\u102c \u1040\u1041 \u1026 \u1025\u102e",
    "\u1797\u17b6\u179f\u17b6\u1781\u17d2\u1798\u17c2\u179a \u17e0\u17e1",
    "\u0f56\u0f7c\u0f51\u0f0b\u0f66\u0f90\u0f51\u0f0b \u0f20\u0f21\u0f2a \u0f43 \u0f42\u0fb7",
    "\u12a0\u121b\u122d\u129b \u1369\u136a \u1361",
    "\u1820\u1822 \u182e\u1823\u1829\u182d\u1823\u182f \u1810",
    "\u0d85\u0d86 \u0dc3\u0dd2\u0d82\u0dc4\u0dbd \u0dda \u0dd9\u0dca",
    "\u1403\u1404 \u16a0\u16a2 \u1681 \u2d30\u2d31 \u07ca\u07cb \ua500",
    "\U00011013\U00011066 \U0001d11e \U00010330 \U00012000",
    "\U0001110b\u0020\U00011099\U000110ba \U00011347\U0001133e",
    "\u3007 \u3021\u3022 \u3038 \u4e00\u4e8c\u4e09",
    "\u02b0\u02b7 \u02bc \u02c6 \u02ea \u0374 \u0559",
    "\u00aa \u00ba \u2071 \u207f",
    "\u0903 \u0483 \u20e3 \ufe0f \ufe00",
]

EMOJI = [
    "\U0001f600\U0001f602\U0001f923 so funny",
    "\u2764\ufe0f \u2764 \U0001f496 love",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "\U0001f469\U0001f3fd\u200d\U0001f680 astronaut \U0001f44d\U0001f3ff",
    "\U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 flags",
    "1\ufe0f\u20e3 #\ufe0f\u20e3 *\u20e3 keycaps",
    "cat\U0001f431dog\U0001f436\U0001f431\U0001f436",
    "\u2600\u2601\u2602\u2603 \u265a\u2654 \u2660\u2665",
    "\u2714 \u2717 \u2192 \u21d2 \u221e \u2260 \u2264 \u2211 \u222b \u221a",
    "\U0001fae0\U0001fae8 new emoji \U0001fac3",
    ":) :-( ;D <3 XD ^_^ \u00af\\_(\u30c4)_/\u00af",
    "\U0001f5ff\U0001f9ff\U0001f37f\u26a7\ufe0f",
    "\u2580\u2588\u2591 \u2500\u2502\u250c \u25a0\u25cf\u25b2",
    "\u2801\u2803 braille \u4dc0 \U0001f000 \U0001f0a1",
    "\U0001f170\U0001f171 \U0001f18e \U0001f130",
]

MIXED = [
    "Hello\u4f60\u597d\u041f\u0440\u0438\u0432\u0435\u0442\u0645\u0631\u062d\u0628\u0627",
    "a1b2c3 1a2b3c \u4e001\u4e8c2",
    "abc123def456 4k 8K HD 1080p",
    "\u00e9cole\u00c9COLE \u00c9cole E\u0301COLE",
    "mix'd\u2019s 'quote\u2019 \u201cx\u201d'll",
    "x\u0301's \u0301's '\u0301s",
    "\u00a0'\u00a0s\u00a0",
    "word\u0301 word\u0301word 1\u0301 !\u0301",
    "_underscore_ __dunder__ a_b_c 1_000",
    "tab\tin\tpath C:\\Users\\me\\file.txt /usr/local/bin",
    "\\n \\t \\u0041 %20 %E2%82%AC",
    "a\u2044b 1\u20442 \u2215 \u2e2e",
    "em\u2014dash en\u2013dash minus\u2212sign hyphen\u2010bullet\u2022",
    "wow!!!???...;;;,,,:::'''\"\"\"",
    "(((((((((((((((((((())))))))))))))))))))",
    "0123456789 00000 9 99 999",
    "\u0669\u0e59\u0967 \u2488 \u3289 \u09f4 \U0001f101",
    "i\u0307\u0307 I\u0307\u0307 \u0130\u0307",
    "\u1fd3 \u0390 \u1fe3 \u03b0 \u2329 \u3008 \u00b7 \u0387",
    "\u0958\u0959 \ufb1f \u2adc \U0001d15e",
    "\u0f73 \u0f71\u0f72 \u0f75 \u0f81",
    "\u0340\u0341 \u0343\u0344 \u0374 \u037e",
    "\u1100\u1161\u1100 \u1100\u11a8 \uac00\u11a8",
    "a\u0315\u0300\u05ae\u0300\u0062",
    "\U0001d165\U0001d16e \U0001d15f",
]

TRAINING = [
    "a high quality photo of a person, elegant, cinematic lighting, sharp focus",
    "oil on canvas, by Rembrandt van Rijn, 17th century",
    "anime girl with blue hair and green eyes, studio ghibli, pixiv",
    "low poly isometric room, blender render, pastel colours",
    "product photo of sneakers --ar 16:9 --v 5 --no text",
    "((best quality)), <lora:detail:0.8>, BREAK, score_9, score_8_up",
    "MNIST digit 7",
    "z",
    "Zzz",
    "No. 5, Mr. & Mrs. Smith's caf\u00e9",
    "10,000\u00b0C \u00b5m \u03bcm 5\u2032 6\u2033",
    "1st 2nd 3rd 4th 21st",
]

PROMPTS = (TRAINING + ENGLISH + CONTRACTIONS + SPACES + CONTROLS + HTML + SPECIAL + LATIN + GREEK_CYRILLIC + OTHER_SCRIPTS + EMOJI +
           MIXED)  # fmt: skip


def random_prompts(count, seed=0):
    """Returns texts of random code points, often from the same block, with spaces and apostrophes between them."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(count):
        text = ""
        while len(text) < draw.randrange(1, 40):
            block = draw.choice([0, 0, 0x80, 0x100, 0x300, 0x370, 0x400, 0x600, 0x900, 0x1100, 0x1E00, 0x2000, 0x3000,
                                 0x4E00, 0xAC00, 0xFB00, 0x10000, 0x1D100, 0x1F300, draw.randrange(0x110000)])
            for _ in range(draw.randrange(1, 6)):
                point = block + draw.randrange(0x80)
                if point < 0xD800 or 0xE000 <= point < 0x110000:
                    text += chr(point)
            text += draw.choice(["", "", " ", "'s", "'", "!", "<|endoftext|>", "\u0301"])
        prompts.append(text)
    return prompts
