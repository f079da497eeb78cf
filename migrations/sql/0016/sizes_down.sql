CREATE POLICY upload_parts_admin ON operations.upload_parts FOR ALL USING ((SELECT operations.is_admin()));
DROP POLICY upload_parts_change ON operations.upload_parts;
CREATE POLICY upload_parts_change ON operations.upload_parts FOR ALL
  USING (EXISTS (SELECT FROM operations.uploads AS u
                  WHERE u.id = "uploadId" AND operations.may_change(u."projectId")));
ALTER TABLE operations.uploads DROP CONSTRAINT ck_uploads_size_at_most;
DROP FUNCTION runtime.refuse_size() CASCADE;
