-- What was said of a record was said of its content: with another content all of it is gone, whoever changes it.

CREATE FUNCTION operations.forget_old_content() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Make a record with new content pending again. What the same statement gives for the new content stays.
BEGIN
  IF NEW.embedding IS NOT DISTINCT FROM OLD.embedding THEN
    NEW.embedding := '{}';
    NEW."embeddingModel" := NULL;
  END IF;
  IF (NEW.alignment, NEW."alignmentAnalysis", NEW."alignmentJobId")
     IS NOT DISTINCT FROM (OLD.alignment, OLD."alignmentAnalysis", OLD."alignmentJobId") THEN
    NEW.alignment := NULL;
    NEW."alignmentAnalysis" := NULL;
    NEW."alignmentJobId" := NULL;
  END IF;
  IF (NEW."hasBeenReviewed", NEW."isCategoryCorrect", NEW."reviewedBy")
     IS NOT DISTINCT FROM (OLD."hasBeenReviewed", OLD."isCategoryCorrect", OLD."reviewedBy") THEN
    NEW."hasBeenReviewed" := false;
    NEW."isCategoryCorrect" := NULL;
    NEW."reviewedBy" := NULL;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER forget_old_content BEFORE UPDATE OF content ON operations.data_records
  FOR EACH ROW WHEN (NEW.content IS DISTINCT FROM OLD.content) EXECUTE FUNCTION operations.forget_old_content();

CREATE FUNCTION operations.forget_old_ratings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete the ratings and failures of a record whose content changed. With the owner's rights: whoever may change the
-- record may not delete other people's ratings, and it is for this table alone, whatever table borrows it.
BEGIN
  IF TG_RELID <> 'operations.data_records'::regclass THEN
    RAISE EXCEPTION 'operations.forget_old_ratings serves operations.data_records, not %', TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  DELETE FROM operations.likert_scores WHERE "recordId" = NEW.id;
  DELETE FROM operations.analytics_failures WHERE "recordId" = NEW.id;
  RETURN NULL;
END $$;
CREATE TRIGGER forget_old_ratings AFTER UPDATE OF content ON operations.data_records
  FOR EACH ROW WHEN (NEW.content IS DISTINCT FROM OLD.content) EXECUTE FUNCTION operations.forget_old_ratings();

REVOKE EXECUTE ON FUNCTION operations.forget_old_content(), operations.forget_old_ratings() FROM PUBLIC;
