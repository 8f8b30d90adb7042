"""Experiments: one file each, a configuration and `run(config)`. Extra `train`."""

RECIPES = {
    "yeast": "Mulan yeast, 14 labels; the data comes with the installation",
    "multilabel": "your own file: ARFF, svmlight, CSV, TSV or JSONL",
    "mlm": "make a small encoder of your own text: guess the words that are hidden",
    "goemotions": "GoEmotions, 28 labels of comments; TF-IDF or a pretrained encoder",
    "eae": "generate images with an entropic autoencoder; MNIST digits, or your own",
    "synthesizer-text": "language models of a text, one for each kind of attention",
    "synthesizer-copy": "which kind of attention learns to copy sequences",
}
