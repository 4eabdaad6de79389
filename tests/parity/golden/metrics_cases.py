"""Captions, answers and words for generate_metrics.py."""

CAPTIONS = r"""
A man riding a wave on top of a surfboard.
"A man" says: 'Hello there!'
She said ``go'' and ‘stay’ or “leave” and «run»
a man's dog and two dogs' bowls
can't won't don't isn't ain't shouldn't've
I cannot; Cannot you? gonna gotta lemme gimme wanna dunno
he'll I'm we've they're she'd it's I'd've
'tis 'twas 'em 'til 'cause the '90s 90's '99 1980s'
rock 'n' roll, rock'n'roll, Dunkin' Donuts, ol' man, somethin' else
o'clock O'Brien d'Avignon l'eau Shi'ite qu'est-ce Q'ran y'all y'know c'mon ma'am
don’t the man’s dog ’tis O’Brien ’90s rock ’n’ roll
the U.S. flag in the U.S.A. and the U.K. at D.C.
Mr. Smith and Mrs. Jones met Dr. No at St. Mary's on 5th Ave. near Mt. Fuji
Inc. Ltd. Co. Corp. Jr. Sr. Bros. etc. e.g. i.e. vs. Ph.D. a.k.a. et al.
5 a.m. to 5 p.m., 5 A.M. 5pm 5p.m. 5:30pm
Jan. 5, Feb. 6, Mon. and Tues. but not May. or Sun. here
No. 5, nos. 6, fig. 3, ca. 1990, pp. 5, art. 7 and no. such
Plan B. The man. Vitamin c. A dog. I. We see x. y z.
well-known state-of-the-art co-ed e-mail T-shirt x-ray 10-year-old 1,000-seat U.S.-based
a man - with a hat -- and a dog --- or cat – or — bird ----- here
pro- anti- anti-war non-U.S. mother-in-law's
...wait... what.... no.. yes . . . ok … end…
what?! no!! really?? yes! ok? ¿que? ¡hola!
(a man) [with] {a} <hat> ((nested)) a(b)c (5)
red, green; blue: white,black;grey:pink
end.Next sentence!Another one?Yes a.b.c x!y
http://www.example.com/foo?x=1&y=2, https://a.b/c. www.foo.co.uk foo.com/bar.html Foo.com a.org
me@foo.com <me@foo.com> @bob_1 #hashtag #1 # a@b
50% off, 5.5 %, 100%-cotton $5.00 US$5 £3 €4.50 ¥300 30¢ $.50 5$
1,000 1,000.5 .5 12:30 1:2:3 -5 +5 -5.5 5-10 (12) 5.
1/2 cup, 3 1/2 cups, 1 ½ cups, 2½ cups, ⅓ and/or 24/7 9/11 w/o km/h he/she/it a/b/c/d
1/2/2013 10-12-2013 2013-01-02 2x4 4x4 3D 50mph 10ft 6' 5" 5'10" 2nd 21st
(555) 555-1234 555-1234 555 555 5555 +12 555 555 1234 555.555.1234 1-800-555-1234
AT&T R&D Q&A B&W b&w A+B a+b salt & pepper &amp; &lt;b&gt; &quot;x&quot; &nbsp; AT&amp;T
<b>bold</b> <br/> <a href="x.html">link</a> <!-- note --> 3 < 5 > 2 << >>
café naïve über Ångström façade piñata Zürich ÉCOLE éa
東京 の 写真 日本語 привет мир שלום مرحبا हिन्दी ไทย 한국어
a 😀 happy 😂 dog ❤ ★ ♥ ☃ ✓ → ∞ ≠ © ® ™ ° § • ・ 。 、
:) :-) ;) :D :P :( =) ^_^ (^_^) -_- <3 :/ 8)
a_b snake_case_word __init__ _ * ** *** @@ ## ~ ^ | \ / = == +
soft­hyphen zero​width no break thin space
file.txt image.jpg photo.jpeg, doc.pdf. foo.py abc.mp3
c++ c# f# A+ .NET Node.js
A  MAN   IN	A   TAB
Yahoo! E! OK! Jeopardy! LOL!!!
TV's PC's 1990's a.b's x's' the Jones' and James's
'quoted phrase' 'single' a 'b' c ''double'' '''triple'''
"double" "a." "b," ("c") “d”. ‘e’, "f"!
`back` ´acute´ ′prime′ ″double″
word., word.; etc., Inc., U.S., a.m., abc.: 5., a-b.,
10²³ m² H₂O x⁻¹ ½-price
Washington,D.C. New York,NY St.Louis Mr.Smith Dr.Who
O.K. o.k. OK. ok, p.s. P.S. R.I.P.
don't.stop it's. it's, he'll! 'don't' "can't"
#1! #A_B @a-b a@b.c.d, (a@b.c)
a man/woman, cats/dogs, black/white/red, T-shirt/jeans, 1/b
the man is 6ft. tall & 200lbs. 5in. wide
Ma'am, y'all'd've gone o'er th' sea
A-B-C 1-2-3 F-16 B-52 7-eleven CO2 H2O mp3 4K 1080p
...'s 's 'll 're n't s' 'd
- a list item
• another item
1. first 2) second 3: third a) b.
 leading and trailing 

.
!
"Stop" sign; "No parking" sign, 'Yield' sign
The man said, "I can't believe it's 5 o'clock!" (He's late.)
a 3-tier cake w/ "Happy Birthday" & 'Congrats' written on it...
two zebras/giraffes @ the zoo #animals #fun :)
it is 90°F / 32°C outside ~ hot
x=5, y = 6, a+b=c, 5*6=30, 5×6, 5÷6, 2^10, f(x)
L.A. N.Y.C. J.F.K. George W. Bush J.R.R. Tolkien
Sgt. Pepper, Capt. Kirk, Gov. Jones, Rep. Lee, Sen. Ray, Gen. Fox, Lt. Dan
Main St. and Ocean Blvd. at 1st Rd. Dept. of Univ. Assn.
vs vs. v. v etc etc. et. al. approx. 5 min. 3 hrs. 5 sec. 6 oz. 7 lbs. 8 sq. ft.
I'M DON'T IT'S CAN'T GONNA U.S. MR. JR. THE END.
""".strip("\n").split("\n")

ANSWERS = r"""
yes|Yes.|no|two|2|The Two|a dog|dog|dogs|black and white|black/white|black / white|black-and-white|1,000|1,000 men-at-arms|2.5|2.5.|
5 p.m.|u.s.a.|dont know|don't know|i dont know, maybe|it's|its|none|zero|nothing|ten|eleven|an apple|the|a|  spaced  out |tab	bed|
what?|what ?|yes!no|"quoted"|(left)|[x] {y}|a=b|a+b|c++|back\slash|under_score|e-mail|<b>|me@x.com|`tick`|semi;colon|50%|$5|#1|
a.b.c|1.2.3|...|1.|.5|٣.٤|3.٤|1,2|a,b|a , b|1,2 - 3|Café|ÉCOLE|naïve|İstanbul|straße|red, white, and blue|o'clock|oclock|it's 5 oclock|
a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.a.b.c.d.e.f.g.h.i.j.k.l.m.n|twas the night|yall|one hundred|one two three|An Hour|THE THE
""".strip("\n").replace("\n", "").split("|")

WORDS = """dog dogs cat kitten puppy horse zebra animal bird eagle fish shark man men woman women child children baby boy girl person people king
queen teacher chef fireman ball kite cup table chair hat umbrella car bus truck boat train bicycle house tree flower grass water sea snow
food apple pizza cake color red blue green white black run running ran walk walking jump jumped ride rode eat ate sit sat play played playing
hold look see go went take good better big biggest small happy sad quickly slowly very the a of and to 2 two music song phone paris london
entity thing abstraction physical unicorn xyzzy axes mice geese leaves glasses scissors""".split()

STEMMED = """dogs cats boxes buses ponies knives wolves mice men children people running skiing surfing eating swimming ring king thing sheep fish
series news glasses glass shoes tomatoes potatoes movies hives natives octopi viruses analyses bases crises axes oxen matrices quizzes data
media aliases lens police bus swing spring sing flying dancing jeans species statuses thieves leaves toys days quays soliloquies shelf""".split()
