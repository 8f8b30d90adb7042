"""English sentences, of all kinds and lengths, that `encoders.py` reads."""

SENTENCES = (
    "Yes.",
    "The cat sat on the mat, and nobody asked it to move.",
    "Why would anyone schedule a meeting at 7:45 on a Monday morning?!",
    "In 1969, Apollo 11 carried 3 astronauts 384,400 km to the Moon.",
    "I can't believe it's already over 😭😭 best concert of my life 🎉",
    "Prices fell by 3.7% (from $1,299.00 to $1,250.94) within a week.",
    "“Curiouser and curiouser!” cried Alice — she was so much surprised.",
    "Señor Núñez ordered a crème brûlée at the café in Zürich.",
    "Please email the signed PDF to office@example.com before Friday, 5 p.m.",
    "THIS IS NOT A DRILL: LEAVE THE BUILDING BY THE NEAREST EXIT.",
    "lol ok whatever u say... see u 2nite @ 8 :-)",
    "Mitochondria produce adenosine triphosphate through oxidative phosphorylation.",
    "She said 你好, he answered こんにちは, and both of them laughed.",
    "The function returns None; if x < 0 || y >= 10 it raises a ValueError instead.",
    "He neither confirmed nor denied the well-known, much-discussed, state-of-the-art "
    "rumours.",
    "Rain is expected in the north-west on Tuesday, clearing from the coast by noon, "
    "with temperatures between -2 °C and 6 °C and gusts of up to 85 km/h.",
    "Although the committee had been warned twice that the bridge, which was built in "
    "1931 and last repaired in 1987, could no longer bear heavy traffic, it decided to "
    "keep two of the four lanes open until the end of the year.",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it "
    "was the age of foolishness, it was the epoch of belief, it was the epoch of "
    "incredulity, it was the season of Light, it was the season of Darkness, it was "
    "the spring of hope, it was the winter of despair.",
    "First, preheat the oven to 180 degrees; then whisk 4 eggs with 200 g of sugar, "
    "fold in 150 g of flour and a pinch of salt, pour the batter into a buttered tin, "
    "bake it for 35 minutes, and let it cool on a rack before you cut it into squares: "
    "it keeps for about three days in a closed box, or for a month in the freezer.",
    "When the library announced that it would lend not only books but also ladders, "
    "drills, telescopes, sewing machines and, for reasons that were never explained, a "
    "single tuba, the queue reached around the block; by the evening everything had "
    "been borrowed except the tuba, which a retired postman took home the next day, "
    "returned within the hour, and has asked for again every spring since then, "
    "together with a pair of ear plugs, which the library does not have.",
)
