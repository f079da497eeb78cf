-- What 0030 made beside the job table.

DELETE FROM runtime.notice_takers WHERE name = 'notifications';
DELETE FROM runtime.notice_interests WHERE id IN (SELECT id FROM notifications.endpoints);
DROP TRIGGER begin_delivery ON notifications.deliveries;
DROP TABLE notifications.endpoint_changes, notifications.endpoints;
DROP FUNCTION notifications.delete_endpoint, notifications.ping, notifications.resend, notifications.take,
  notifications.event_of, notifications.note_endpoint, notifications.keep_endpoint, notifications.begin_endpoint,
  notifications.who;
