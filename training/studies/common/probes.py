"""What a linear classifier makes of the pixels, for comparison with one on latents or features."""

from sklearn.decomposition import PCA

from hf_eddpm.modalities.image.data import ImageData
from hf_eddpm.modalities.image.metrics import linear_probe


def component_probe(train: ImageData, dev: ImageData, label: str, num_components: int) -> float:
    """How often a linear classifier of the pixels' principal components is right on held-out images.

    Args:
        train: Images that components and classifier are fitted to.
        dev: Held-out images.
        label: Attribute of the classes.
        num_components: Components; fewer where there are not as many images or pixels.
    """
    pixels, held_pixels = (data.images.reshape(len(data), -1) / 255 for data in (train, dev))
    pca = PCA(min(num_components, *pixels.shape), random_state=0).fit(pixels)
    probe = linear_probe(pca.transform(pixels), train.labels(label), pca.transform(held_pixels), dev.labels(label))
    return probe["accuracy"]
