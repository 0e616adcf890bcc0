"""Words that the built-in tasks fill into their templates.

The lists were written for this library: everyday English given names, things a person can hand to another, and
places. A word stands in one list only. Every word belongs to one split for good, by its place in its list, whatever
the seed or the tokenizer: a circuit found with one seed can be judged on another's test split without having seen its
words. So append words, and never reorder, insert or remove them.
"""

from edgewise.tasks._splits import listed

FEMALE_NAMES = listed(
    """
    Mary Anna Emma Elizabeth Margaret Alice Clara Sarah Laura Julia Helen Ruth Catherine Jane Martha Susan Linda
    Barbara Patricia Jennifer Jessica Karen Nancy Lisa Betty Sandra Ashley Emily Donna Michelle Carol Amanda Melissa
    Deborah Stephanie Rebecca Sharon Cynthia Kathleen Amy Angela Shirley Brenda Pamela Nicole Samantha Katherine
    Christine Debra Rachel Carolyn Janet Maria Heather Diane Olivia Julie Joyce Victoria Kelly Christina Lauren Joan
    Evelyn Judith Andrea Hannah Megan Cheryl Jacqueline Teresa Gloria Sara Janice Kathryn Sophia Frances Judy Isabella
    Beverly Denise Theresa Marilyn Danielle Doris Amber Natalie Brittany Diana Abigail Sophie Rosa Charlotte Lucy
    Molly Chloe Ella Mia Nora Lily Zoe Eva Leah Claire Audrey Bella Naomi Elena Ellen Irene Marie Louise Anne Rosemary
    Eleanor Edith Florence Esther Agnes Josephine Lillian Annie Vera Eliza Sally Peggy Wendy Tina Tracy Kate Katie
    Nina Sonia Tara Tanya Monica Veronica Valerie Vanessa Yvonne Gina Dana Carla Bonnie Connie Cindy Sherry Suzanne
    Tamara Tiffany Paula Rita Robin Sylvia Stella Regina Ramona Priscilla Phoebe Penny Pauline Olga Nadia Miriam
    Mildred Melanie Marjorie Lydia Lucia Lorraine Lois Leslie Krista Kristen Jenny Jill Joanna Jasmine Ivy Ida Holly
    Heidi Gwen Greta Gail Francesca Fiona Erica Elsa Elaine Daisy Cora Celia Cecilia Cassandra Camille Bridget Beth
    Beatrice Astrid Antonia Angelina Amelia Alison Alexandra Ada Abby Marta Ingrid Yasmin Fatima Leila Aisha Priya Mei
    Yuki Carmen Dolores Juanita Lola Pilar Ana Helena Simone Delia Flora Harriet Matilda Rosie Tess Winifred
    """
)

MALE_NAMES = listed(
    """
    John James Robert Michael David William Richard Joseph Thomas Charles Daniel Matthew Anthony Donald Steven Paul
    Andrew Joshua Kenneth Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric
    Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Alexander Patrick Jack Dennis Jerry Tyler
    Aaron Jose Henry Adam Douglas Nathan Peter Zachary Kyle Walter Harold Jeremy Ethan Carl Keith Roger Gerald Terry
    Sean Arthur Austin Noah Lawrence Jesse Joe Bryan Billy Albert Bruce Willie Gabriel Logan Alan Juan Wayne Ralph Roy
    Eugene Randy Vincent Russell Louis Philip Bobby Johnny Bradley Simon Oliver Oscar Leo Max Luke Mark Frank Fred
    Martin Victor Harry Howard Hugh Ian Isaac Ivan Jake Jim Jimmy Joel Karl Ken Kurt Lance Lee Leonard Lewis Liam
    Lloyd Lucas Luis Malcolm Marcus Mario Marvin Maurice Melvin Miguel Mike Mitchell Morris Neil Nick Norman Omar Owen
    Pablo Pedro Perry Philippe Quentin Rafael Ralf Raymond Ricardo Rick Rob Rodney Roland Ross Rudolf Rufus Rupert Sam
    Sebastian Seth Shane Sidney Stanley Stefan Steve Stuart Ted Theodore Tim Toby Todd Tom Tommy Tony Travis Trevor
    Vernon Vladimir Warren Wesley Xavier Abraham Alec Alex Alfred Allan Allen Alvin Andre Angus Antonio Arnold Barry
    Ben Bernard Bert Bob Boris Brad Brent Brett Calvin Carlos Cecil Chad Charlie Chris Christopher Clark Clifford
    Clyde Colin Connor Craig Curtis Cyril Damian Dan Dave Derek Diego Dmitri Dominic Don Doug Duncan Dylan Ed Edgar
    Edwin Elias Elliot Emil Enrique Ernest Ernie Evan Felix Fernando Floyd Francis Franklin Geoffrey Gilbert Glenn
    Gordon Graham Greg Hans Harvey Hector Herbert Herman Hugo Ibrahim Igor Ahmed Ali Hassan Ravi Raj Kenji Wei
    """
)

# Each reads well after "a" and in "gave a … to".
OBJECTS = listed(
    """
    ball book ring drink snack hat coat key map bag cup pen toy gift letter card box bottle camera guitar phone watch
    necklace basket blanket candle flower cookie sandwich cake pie lamp knife kite drum doll puzzle scarf sweater
    shirt jacket pillow mirror bracelet ticket coin pencil notebook magazine newspaper photo picture painting poster
    plate spoon fork bowl mug vase towel broom hammer ladder rope torch lantern compass helmet bicycle bike radio
    laptop tablet keyboard battery charger cable wallet purse backpack suitcase violin flute trumpet biscuit banana
    peach pear lemon melon mango potato tomato carrot pumpkin salad pizza burger coffee beer present medal trophy
    badge stamp postcard diary novel comic glove sock shoe boot belt tie button needle ribbon pin crown bone brush
    chair clock computer basketball football calendar carpet curtain dictionary dress folder glass hook jar jug kettle
    lighter lock magnet manual mask menu microphone napkin net note package paddle pan parcel pipe plant pot printer
    quilt racket razor robe rug ruler sack saddle sample saw screwdriver shovel sketch sponge stick stool sword tray
    tool tube wheel whistle wrench
    """
)

# Each reads well after "at the", "near the" and "left the".
PLACES = listed(
    """
    store school park market station library museum hospital restaurant garden house office beach church zoo airport
    theater hotel cafe mall gym farm lake river bank club studio harbor castle palace temple bakery pharmacy gallery
    stadium cinema pool court campus bar pub clinic lab camp village warehouse garage tower factory bridge fair
    festival circus concert wedding party playground fountain pier port shop supermarket bookstore barn cabin cottage
    mansion embassy monument cathedral chapel monastery university college academy laboratory workshop kitchen hall
    lobby meadow forest valley
    """
)
