//! Volumes that are made of images of an image service.
//!
//! The image is fetched with the caller's own token, which is kept in memory alone: a fetch that a restart cuts off
//! ends in an error state.
//!
//! # Invariants
//! - A volume becomes available only when its image came to an end without an error.

use bytes::Bytes;

use super::copies::{Copies, no_such_image};
use crate::control::upload::Failure;
use crate::domain::{
    Algorithms, BlockFields, ByteCount, Carried, Digests, Fault, FaultKind, Principal, Reason, ReceivePlan, Volume,
    VolumeId, VolumeKind, VolumeSpec, VolumeState,
};
use crate::remote::{ImageDownload, ImageError, ImageService};
use crate::transfer::{Broken, ChunkSource, Chunks};

const GIB: u64 = 1 << 30;

impl Copies {
    /// Begins to fill a new drive from an image of the service.
    pub(super) async fn fetch(
        &self,
        images: &ImageService,
        principal: &Principal,
        (id, token): (VolumeId, Option<Carried>),
        (spec, fields): (VolumeSpec, BlockFields),
    ) -> Result<Volume, Fault> {
        let token = token.map(|token| token.0);
        let image = images.image(id, token.as_ref()).await.map_err(|error| not_described(id, error))?;
        let length = image.length().map_err(|why| {
            let told = format!("the image {id} cannot become a volume: {why}");
            Fault::invalid("image", told).for_reason(Reason::ImageUnfit(id, why))
        })?;
        let least = least_size(length, image.min_disk)
            .ok_or_else(|| Fault::new(FaultKind::TooLarge, "the image asks for more than any volume has"))?;
        let size = spec.size.unwrap_or(least);
        if size < least {
            let told = format!("a volume of this image has {least} bytes or more");
            return Err(Fault::invalid("size", told).for_reason(Reason::SmallerThanImage(least)));
        }
        self.volumes.check_size(size)?;
        let (kind, state, now) = (VolumeKind::Drive, VolumeState::Downloading, self.volumes.clock.now());
        let mut volume = Volume::begun(principal.tenant, kind, &spec.name, size, state, now);
        volume.meta = spec.meta;
        BlockFields { image: image.facts(id), ..fields }.put(&mut volume.attributes);
        let reservation = self.volumes.store.space().reserve_for(principal.tenant, length)?;
        let (asserted, wanted) = (Digests::NONE, Algorithms::NONE);
        let plan = ReceivePlan { name: spec.name, length: Some(length), asserted, wanted };
        let admitted = self.uploads.begin(volume.clone(), plan, reservation, Failure::Spoil).await?;
        let images = images.clone();
        self.volumes.tracker.spawn(async move {
            let opened = images.download(id, &image, token.as_ref()).await;
            // What fails is told by the volume's state and reason, and in the log.
            let _ = Box::pin(admitted.receive(&mut ChunkSource::from(ImageChunks(Some(opened))))).await;
        });
        Ok(volume)
    }
}

/// The least size of a volume of an image: whole GiB, and as many as the image asks for, which may be any number.
fn least_size(length: ByteCount, min_disk: u64) -> Option<ByteCount> {
    let least = length.get().max(min_disk.checked_mul(GIB)?);
    least.checked_next_multiple_of(GIB).and_then(ByteCount::new)
}

fn not_described(id: VolumeId, error: ImageError) -> Fault {
    match error {
        ImageError::NoSuchImage => no_such_image(id),
        ImageError::Unauthenticated => Fault::new(FaultKind::Unauthenticated, error.to_string()),
        // What the service takes for a wrong request is told as one.
        ImageError::Refused => Fault::invalid("image", format!("the image service refuses to tell of the image {id}")),
        error => Fault { told: "the image service cannot be used".to_owned(), ..Fault::internal(error) },
    }
}

/// An image that is being fetched, or why it is not.
struct ImageChunks(Option<Result<ImageDownload, Broken>>);

impl Chunks for ImageChunks {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some(Ok(download)) = &mut self.0 else {
            return self.0.take().map_or(Ok(None), |opened| opened.map(|_| None));
        };
        let chunk = download.next().await?;
        if chunk.is_none() {
            self.0 = None;
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_an_image_service_overflows_a_size() {
        let least = |length: u64, min_disk| least_size(ByteCount::new(length).unwrap(), min_disk).map(ByteCount::get);
        assert_eq!(least(1, 0), Some(GIB));
        assert_eq!(least(GIB + 1, 2), Some(2 * GIB));
        assert_eq!(least(1, 3), Some(3 * GIB));
        for min_disk in [1 << 33, (1 << 34) - 1, 1 << 34, 1 << 60, u64::MAX] {
            assert_eq!(least(1, min_disk), None, "{min_disk}");
        }
        assert_eq!(least(ByteCount::MAX.get(), 0), None);
    }
}
