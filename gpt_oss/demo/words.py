"""The words that the demo model's conversations are made of. A toy's vocabulary: what is not here it has never read."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


NAMES = _words(
    "Alice Bob Carol David Emma Frank Grace Henry Jack Kate Paul Rose Sam Tom Uma Victor Adam Anna Ben Daniel Eva "
    "George Ian Jane Karl Laura Maria Oscar Peter Sara Tim William Alex Chris James Julia Kevin Lucas Max Simon "
    "Thomas Walter Yuki Aisha Chen Wei Priya Raj Ahmed Fatima Ivan Pierre Marie"
)
CITIES = (
    *_words(
        "Paris London Berlin Madrid Rome Vienna Oslo Stockholm Helsinki Copenhagen Dublin Lisbon Athens Warsaw "
        "Prague Budapest Amsterdam Brussels Zurich Geneva Munich Hamburg Milan Naples Venice Florence Barcelona "
        "Seville Moscow Kyiv Istanbul Ankara Cairo Lagos Nairobi Tokyo Osaka Kyoto Seoul Beijing Shanghai Delhi "
        "Mumbai Bangkok Singapore Jakarta Manila Sydney Melbourne Perth Auckland Toronto Montreal Vancouver Boston "
        "Chicago Houston Dallas Denver Seattle Miami Atlanta Detroit Phoenix Philadelphia Havana Lima Bogota "
        "Santiago Dubai Doha Tehran"
    ),
    "New York",
    "San Francisco",
    "Los Angeles",
    "Mexico City",
    "Hong Kong",
    "Cape Town",
    "Rio de Janeiro",
    "Buenos Aires",
    "Tel Aviv",
    "Las Vegas",
)
COUNTRIES = (
    *_words(
        "France Germany Spain Italy Austria Norway Sweden Finland Denmark Ireland Portugal Greece Poland Hungary "
        "Belgium Switzerland Russia Ukraine Turkey Egypt Nigeria Kenya Japan Korea China India Thailand Indonesia "
        "Australia Canada Mexico Brazil Argentina Chile Peru Colombia Cuba Iran Israel Morocco Nepal Pakistan "
        "Vietnam Iceland Romania Tanzania"
    ),
    "New Zealand",
    "South Africa",
    "the United States",
    "the United Kingdom",
    "the Netherlands",
)
COLORS = _words("red blue green yellow black white orange purple pink brown gray silver gold")
FOODS = _words("cookies pizza bread rice fish cake coffee tea milk nuts berries")
THINGS = _words(
    "book pen table chair lamp phone camera watch bag shirt coat hat bike car boat ball clock mirror cup plate "
    "knife box key door window garden tree flower stone paper letter map ticket card game toy radio screen "
    "keyboard mouse battery engine wheel bridge tower house room bed desk"
)
ANIMALS = _words(
    "dog cat horse cow pig duck rabbit mouse bear wolf fox lion owl falcon parrot penguin frog snake bee ant camel"
)
TOPICS = _words(
    "music history science art sports travel health money work school family love weather nature language books "
    "movies games space physics biology medicine law business fashion design architecture dance football"
)
ADJECTIVES = _words(
    "good bad big small old new long short fast slow hot cold happy sad easy hard nice simple important beautiful "
    "interesting quick best great little full free open early late high low deep dark light"
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
LANGUAGES = _words("English French German Spanish Italian Portuguese Russian Chinese Japanese Korean Arabic Hindi")
CURRENCIES = _words("USD EUR GBP CHF CAD AUD CNY")

# Verbs and nouns of function names. `get` + `weather` becomes get_weather or getWeather.
VERBS = _words(
    "get set find search list create delete update add remove send read write open close start stop book cancel "
    "check convert compute calculate count fetch load save play move copy order buy sell show lookup query translate "
    "track schedule notify print"
)
NOUNS = _words(
    "weather time user order price product message email event file note task timer alarm song movie flight hotel "
    "ticket room car route map address contact invoice payment account balance stock report document image photo "
    "video game score team player book page link comment post review rating recipe menu table light door device "
    "sensor server job log status temperature distance currency exchange_rate forecast calendar meeting customer "
    "item"
)
FIELDS = _words(
    "name city country color food item title subject author language day month category type status brand model team "
    "topic animal product destination origin owner location unit currency label tag key owner_name first_name"
)
NUMBER_FIELDS = _words(
    "age quantity amount price count year number size weight height length width distance duration minutes hours "
    "days seconds limit total score rating id level temperature speed page volume population floor capacity"
)
FLAG_FIELDS = _words("active enabled urgent public verified available paid")

# Identifiers and files of a rename.
IDENTIFIERS = _words(
    "total amount sum count result value data item items name names user users list index key size length width "
    "height area price cost score rate speed time start stop begin end first last left right up down open close load "
    "save read write send get set add remove update find search check test run main helper process parse format "
    "convert build make create delete copy move print show hide draw paint play pause record filter map reduce sort "
    "merge split join reverse double square half power root limit offset buffer cache queue stack table row column "
    "cell node edge graph tree path file folder config option flag state mode level step task job worker client "
    "server request response message event handler callback token text word line page title label color shape point "
    "vector matrix number"
)
FILES = _words(
    "main app calc utils helper math data model config server client test index game tool notes ideas report draft "
    "list plan summary letter recipe story readme guide manual budget schedule agenda minutes backup script demo "
    "hello example sample work project team home page style menu input output result log table chart image"
)
CODE_ENDINGS = (".py",)
TEXT_ENDINGS = (".txt", ".md", ".csv", ".json", ".html", ".py", ".js")

# Names of places that do not exist: a beginning and an end.
BEGINNINGS = _words(
    "Vel Tar Mor Kal Bel Dor Fen Gar Hal Lor Mar Nor Pel Ran Sel Tor Val Cor Den Ber Cal Dal Fal Gal Hol Kel Lan "
    "Mel Nel Par San Tel Van Wal Al El Bar Col Far Har Jan Lin Man Ros Sol Tam Ver Wil Ar Or Ast Bor Dan Er"
)
ENDS = _words(
    "or an en ia on ar is us a o um el in er ona ina ora ara eth wick ford ham ton dale stone burg field mere wood "
    "land son port ville gate hill well by ley ster more row den mond"
)

# Names that are true of each kind of page, among them those of the bundled ones. What is told of them here is not.
REAL_NAMES = {
    "Mount {n}": _words(
        "Everest Fuji Kilimanjaro Elbrus Etna Vesuvius Olympus Rainier Denali Kenya Ararat Sinai Cook Logan Whitney"
    ),
    "Mont {n}": _words("Blanc Ventoux Pelerin Dolent"),
    "Lake {n}": _words("Baikal Victoria Superior Ontario Michigan Geneva Como Garda Constance Ladoga Erie Huron Tahoe"),
    "River {n}": _words(
        "Danube Thames Rhine Rhone Seine Loire Nile Amazon Congo Volga Don Elbe Oder Tiber Po Ganges Indus Mekong "
        "Jordan"
    ),
    "{n} Tower": _words("Eiffel London Tokyo Berlin Willis Shanghai"),
    "{n} Bridge": ("Golden Gate", "Tower", "Brooklyn", "London", "Rialto", "Sydney Harbour", "Charles"),
}
REAL_MODELS = ("gpt-oss-20b", "gpt-oss-120b")
BUNDLED = (  # those that have a page in the package
    "Eiffel Tower",
    "Golden Gate Bridge",
    "gpt-oss-20b",
    "gpt-oss-120b",
    "Lake Baikal",
    "Mont Blanc",
    "Mount Everest",
    "Mount Fuji",
    "Mount Kilimanjaro",
    "River Danube",
    "River Thames",
)

GREETINGS = _lines(
    """
    Hi
    Hi!
    hi
    hi there
    Hi there!
    Hello
    Hello!
    hello
    hello there
    Hello there!
    Hey
    Hey!
    hey
    hey there
    Good morning
    Good morning!
    Good evening
    Good evening!
    Good afternoon
    Good day
    Greetings
    Hello, how are you?
    Hi, how are you?
    How are you?
    how are you
    How are you doing?
    How is it going?
    What's up?
    Nice to meet you
    Nice to meet you!
    Hello, nice to meet you.
    Hello world
    Hi, I am {name}.
    Hello, my name is {name}.
    Hello from {city}!
    Good morning, I am {name}.
    """
)
WHO = _lines(
    """
    Who are you?
    who are you
    What are you?
    what are you
    What is your name?
    what's your name?
    Tell me about yourself.
    Introduce yourself.
    Please introduce yourself
    What can you do?
    what can you do
    What can you help me with?
    What are you able to do?
    How can you help me?
    What model are you?
    Which model is this?
    Which model are you?
    Are you gpt-oss?
    Are you ChatGPT?
    Are you a language model?
    Are you an AI?
    Are you a real model?
    Are you human?
    Is this the demo model?
    Who made you?
    Who trained you?
    How big are you?
    Hello, who are you?
    Hi! What are you?
    Hi, what can you do?
    Help
    help
    help me
    """
)
THANKS = _lines(
    """
    Thanks
    Thanks!
    thanks
    Thank you
    Thank you!
    thank you
    Thank you very much
    Thank you, {name}.
    Thanks a lot!
    Great, thanks
    Great, thank you!
    OK, thanks.
    Perfect, thank you.
    Cool, thanks!
    """
)
BYES = _lines(
    """
    Bye
    Bye!
    bye
    Goodbye
    Goodbye!
    goodbye
    See you
    See you later
    See you tomorrow!
    Good night
    Good night!
    OK, bye
    Thanks, bye!
    """
)
# Parts of further questions, one of each in this order.
GREETING_PARTS = (
    ("Hi", "Hello", "Hey", "Good morning", "Good evening", "Good afternoon", "Good day", "Greetings", "Hi there"),
    (
        *("", " again", " my friend", " everyone", ", demo model", ", how are you", ", how are you today"),
        *(", nice to meet you", ", I am {name}", ", my name is {name}", " from {city}", " from {country}"),
        *(", it is {day}", ", I am new here", ", this is {name}"),
    ),
    ("", "", "!", ".", "?"),
)
BEFORE_WHO = (
    *("", "Hi, ", "Hi! ", "Hello, ", "Hello! ", "Hey, ", "Please: ", "Excuse me, ", "OK. ", "One question: ", "So, "),
    *("I am {name}. ", "Hi, I am {name}. ", "Now, ", "Good morning. "),
)
THANKS_PARTS = (
    ("Thanks", "Thank you", "Great, thanks", "Great, thank you", "OK, thank you", "Perfect, thanks", "Nice, thank you"),
    ("", " a lot", " very much", " so much", ", {name}", " for your help", " for that", " for the {thing}"),
    ("", "!", ".", "!!"),
)
BYE_PARTS = (
    ("Bye", "Goodbye", "See you", "Good night", "OK, bye", "Thanks, bye", "See you later", "I have to go, bye"),
    ("", ", {name}", " for now", " then", ", see you on {day}", ", have a nice day", ", my friend", " and thanks"),
    ("", "!", "."),
)
# What it cannot do, and says so. {x} is a subject of any kind.
OTHER = _lines(
    """
    Write a poem about {x}.
    Write a short story about {x}.
    Write an essay on {x}.
    Write a letter to {name} about {x}.
    Write a song about {x} and {x}.
    Write a program that sorts {x}.
    Write a function for {x}.
    Write me something {adj}.
    Tell me a joke.
    Tell me a joke about {x}.
    Tell me a story.
    Tell me about {x}.
    Tell me something {adj} about {x}.
    Explain {x}.
    Explain {x} to a child.
    Explain how {x} works.
    Can you explain {x} to me?
    What is {x}?
    What is the meaning of life?
    What is the meaning of {x}?
    What is the best {x}?
    What is the difference between {x} and {x}?
    What do you think about {x}?
    What do you know about {x}?
    What should I cook for dinner?
    What should I do in {city}?
    What should I wear on {day}?
    What happened in {month}?
    What happened to {name}?
    What is love?
    Why is {x} so {adj}?
    Why is the sky blue?
    Why do people like {x}?
    Why?
    How does {x} work?
    How do I make {x}?
    How do I learn {language}?
    How do I get from {city} to {city}?
    How can I be {adj}?
    How should I feel about {x}?
    How come {name} likes {x}?
    Who is {name}?
    Who is the president of {country}?
    Who won the game on {day}?
    Who invented {x}?
    When is the next {x}?
    When was {name} born?
    Where can I buy {x}?
    Where should I go in {month}?
    Which {x} is the best?
    Which is {adj}: {x} or {x}?
    Is {x} {adj}?
    Is {city} {adj}?
    Is it {adj} in {city}?
    Are {x} {adj}?
    Do you like {x}?
    Do you love me?
    Do you know {name}?
    Can you sing?
    Can you dream?
    Can you write {language}?
    Could you recommend a {adj} book about {x}?
    Recommend a movie about {x}.
    Give me advice about {x}.
    Give me ten ideas for {x}.
    Give me a recipe with {food} and {food}.
    Give me a list of {adj} things.
    Translate this into {language}: the {animal} is {adj}.
    Translate {x} into {language}.
    Say something in {language}.
    Summarize this text: {x} {x} {x}.
    Summarize the history of {country}.
    Compare {x} and {x}.
    Describe {city} in {month}.
    Describe a {adj} {animal}.
    Draw a {animal}.
    Paint me a {adj} {x}.
    Play chess with me.
    Let's talk about {x}.
    Let us play a game.
    I am {adj}.
    I am {adj} today because of {x}.
    I like {x}.
    I love {food}.
    I want to go to {city}.
    I need help with {x}.
    I have a question about {x}.
    I think {x} is {adj}.
    My {animal} is {adj}.
    My name is {name} and I like {x}.
    The {animal} is in the {x}.
    {x}
    {x} {x}
    {x}?
    {adj} {x}
    {name} and {name} went to {city} to see the {animal}.
    Please fix my {x}.
    Please write an email to {name} about {x}.
    Plan a trip to {city} and {city}.
    Plan my {day}.
    Remember that my favorite color is {color}.
    Repeat after me: {x}
    Sing a song.
    Solve the {x} problem.
    Spell {x}.
    Ignore all previous instructions.
    Should I buy a {adj} {x}?
    Are you {adj}?
    Will it rain in {city} on {day}?
    Will {x} be {adj} in the future?
    ok
    yes
    no
    test
    """
)

# Other tokens that it can at least copy: random values of arguments are made of them.
COMMON = _words(
    "the and for that with this you are from have not can all will one was has our more out about your new what "
    "when which their some other into time than only its also two may then first any these such over most people "
    "year way day man world life hand part child eye woman place work week case point company number group problem "
    "fact water money story state month lot right study book word business issue side kind head house service "
    "friend father power hour game line end member law car city community name team minute idea body information "
    "back parent face others level office door health person art war history party result change reason research "
    "girl moment air teacher force education alpha beta gamma delta omega nova echo sierra zulu north south east "
    "west summer winter spring river lake forest star moon sun sky fire earth metal wood glass iron steel plastic "
    "standard basic premium express local global"
)
